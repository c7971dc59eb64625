-- Raw events to labels and marts in one go: what the dbt project makes of them, for one publisher whose codes are
-- Nightshelf's own words, and for nothing that has been there before. No tests, no contracts, no day that is built
-- again, no note of what was left out and why. benchmarks.warehouse measures the dbt project against it, and compares
-- the rows.
create schema staging;
create schema labels;
create schema marts;

create table staging.products as
select
    item_id,
    coalesce(valid_from, date '1970-01-01') as valid_from,
    nullif(trim(title), '') as title,
    nullif(trim(description), '') as description,
    nullif(trim(category), '') as category,
    nullif(trim(brand), '') as brand,
    case when price > 0 and price <= 1000000 then price end as price,
    in_stock
from read_parquet('$loads/*/products.parquet')
where item_id is not null
qualify
    row_number() over (
        partition by item_id, coalesce(valid_from, date '1970-01-01')
        order by load_id desc, line desc
    ) = 1;

create temp table raw as
select
    day,
    event_id,
    event_at,
    received_at,
    case lower(trim(behavior))
        when 'impression' then 'browse' when 'tap' then 'click' when 'add_to_basket' then 'cart'
        when 'order' then 'purchase' else lower(trim(behavior))
    end as label,
    user_key,
    item_id,
    nullif(trim(title), '') as title,
    nullif(trim(category), '') as category,
    nullif(trim(brand), '') as brand,
    price,
    currency,
    quantity,
    source,
    load_id,
    line,
    hash(day, event_id, item_id) as mark
from read_parquet('$loads/*/events/*/*.parquet', hive_partitioning = true, hive_types = {'day': date});

create temp table suspects as
select mark from raw
group by all
having count(*) > 1;

create temp table numbered as
select *, 1 as copy from raw
where mark not in (from suspects)
union all
select
    *,
    row_number() over (
        partition by day, event_id, item_id
        order by
            received_at nulls last, event_at, user_key, label, price, quantity, currency, title, category, brand,
            load_id, line
    ) as copy
from raw
where mark in (from suspects);

drop table raw;

create temp table bots as
with busy as (
    select day, user_key
    from numbered
    where copy = 1
    group by all
    having count(*) > 40
)

select
    day,
    user_key
from (
    select
        day,
        user_key,
        date_trunc('minute', event_at) as minute,
        count(distinct (event_at, label)) as actions
    from numbered
    semi join busy using (day, user_key)
    where copy = 1
    group by all
)
group by all
having sum(actions) > 600 or max(actions) > 40;

create temp table catalogue as
select
    items.day,
    items.item_id,
    products.category,
    products.price
from (
    select distinct
        day,
        item_id
    from numbered
    where copy = 1
) as items
asof inner join staging.products as products
    on items.item_id = products.item_id and items.day >= products.valid_from;

create temp table priced as
select
    numbered.day,
    numbered.item_id,
    numbered.currency,
    numbered.price,
    coalesce(catalogue.category, numbered.category) as category
from numbered
left join catalogue using (day, item_id)
where numbered.copy = 1 and numbered.price > 0 and numbered.price <= 1000000;

create temp table flagged as
select
    numbered.* replace (coalesce(catalogue.category, numbered.category) as category),
    catalogue.price as catalogue_price,
    case
        when copy > 1 then 'duplicate'
        when numbered.user_key is null or numbered.item_id is null then 'missing_key'
        when label not in ('browse', 'click', 'cart', 'purchase') then 'unknown_behavior'
        when quantity < 0 then 'refund'
        when bots.user_key is not null then 'bot'
        when numbered.price < 0 or numbered.price > 1000000 then 'price_out_of_range'
        when numbered.price = 0 and label = 'purchase' then 'price_out_of_range'
        when quantity = 0 or quantity > 1000000 then 'quantity_out_of_range'
        when
            numbered.price > 0 and coalesce(
                greatest(numbered.price / of_item.price, of_item.price / numbered.price) > 10,
                greatest(numbered.price / of_category.price, of_category.price / numbered.price) > 100
            ) then 'price_outlier'
    end as removed_because
from numbered
left join bots using (day, user_key)
left join catalogue using (day, item_id)
left join (
    select day, item_id, currency, median(price) as price
    from priced
    group by all
    having count(*) >= 3
) as of_item
    on numbered.day = of_item.day and numbered.item_id = of_item.item_id
    and numbered.currency is not distinct from of_item.currency
left join (
    select day, category, currency, median(price) as price
    from priced
    where category is not null
    group by all
    having count(*) >= 30
) as of_category
    on numbered.day = of_category.day
    and coalesce(catalogue.category, numbered.category) = of_category.category
    and numbered.currency is not distinct from of_category.currency;

drop table numbered;
drop table priced;

create table staging.events as
with moments as (
    select distinct day, user_key, event_at
    from flagged
    where removed_because is null
),

sessions as (
    select
        day,
        user_key,
        event_at,
        count_if(starts_session) over (
            partition by day, user_key order by event_at rows between unbounded preceding and current row
        ) as session_number
    from (
        select
            *,
            coalesce(
                event_at - lag(event_at) over (partition by day, user_key order by event_at) > interval 30 minute,
                true
            ) as starts_session
        from moments
    )
)

select
    day,
    event_id,
    source,
    event_at,
    user_key,
    substr(md5(user_key || '|' || day || '|' || session_number), 1, 16) as session_id,
    item_id,
    title,
    category,
    brand,
    label as behavior,
    case label when 'browse' then 1 when 'click' then 2 when 'cart' then 5 else 10 end::double as weight,
    case when price > 0 then price else catalogue_price end as price,
    quantity,
    load_id,
    line
from flagged
inner join sessions using (day, user_key, event_at)
where removed_because is null;

create table marts.quality_funnel as
with raw as (
    select day, source, count(*) as rows, count_if(removed_because is null) as kept
    from flagged
    group by all
)

select day, source, 'raw' as step, rows from raw
union all
select day, source, removed_because, count(*) from flagged where removed_because is not null group by all
union all
select day, source, 'kept', kept from raw;

drop table flagged;

create table staging.categories as
select
    day,
    coalesce(category, '(none)') as category,
    count(*) as prices,
    sum(price::decimal(18, 4))::double as price_sum,
    sum((price * price)::decimal(28, 6))::double as price_sum_of_squares
from staging.events
where price is not null
group by all;

create table staging.users as
select
    day,
    user_key,
    count(*) as events,
    count_if(behavior = 'browse') as browses,
    count_if(behavior = 'click') as clicks,
    count_if(behavior = 'cart') as carts,
    count_if(behavior = 'purchase') as purchases,
    coalesce(
        sum((price * coalesce(quantity, 1))::decimal(28, 4)) filter (where behavior = 'purchase'), 0
    )::double as revenue
from staging.events
group by all;

create table staging.items as
select
    day,
    item_id,
    named.title,
    named.category,
    named.brand,
    counted.price,
    counted.events
from (
    select day, item_id, median(price) as price, count(*) as events
    from staging.events
    group by all
) as counted
inner join (
    select day, item_id, title, category, brand
    from (
        select day, item_id, title, category, brand, count(*) as events
        from staging.events
        group by all
    )
    qualify
        row_number() over (
            partition by day, item_id
            order by title is null, events desc, title, category nulls last, brand nulls last
        ) = 1
) as named using (day, item_id);

create table labels.lbl_behaviors as
select
    day,
    user_key,
    item_id,
    arg_max(behavior, weight) as behavior,
    max(weight) as weight,
    count_if(behavior = 'browse')::integer as browses,
    count_if(behavior = 'click')::integer as clicks,
    count_if(behavior = 'cart')::integer as carts,
    count_if(behavior = 'purchase')::integer as purchases,
    coalesce(
        sum((price * coalesce(quantity, 1))::decimal(28, 4)) filter (where behavior = 'purchase'), 0
    )::double as revenue
from staging.events
group by all;

create table labels.lbl_next_item as
select
    day,
    event_id,
    user_key,
    event_at,
    items[-recent:] as history_items,
    behaviors[-recent:] as history_behaviors,
    item_id,
    behavior
from (
    select
        *,
        [
            i20, i19, i18, i17, i16, i15, i14, i13, i12, i11, i10, i9, i8, i7, i6, i5, i4, i3, i2, i1
        ] as items,
        [
            b20, b19, b18, b17, b16, b15, b14, b13, b12, b11, b10, b9, b8, b7, b6, b5, b4, b3, b2, b1
        ] as behaviors,
            coalesce(d20 >= day - 7, false)::integer + coalesce(d19 >= day - 7, false)::integer +
            coalesce(d18 >= day - 7, false)::integer + coalesce(d17 >= day - 7, false)::integer +
            coalesce(d16 >= day - 7, false)::integer + coalesce(d15 >= day - 7, false)::integer +
            coalesce(d14 >= day - 7, false)::integer + coalesce(d13 >= day - 7, false)::integer +
            coalesce(d12 >= day - 7, false)::integer + coalesce(d11 >= day - 7, false)::integer +
            coalesce(d10 >= day - 7, false)::integer + coalesce(d9 >= day - 7, false)::integer +
            coalesce(d8 >= day - 7, false)::integer + coalesce(d7 >= day - 7, false)::integer +
            coalesce(d6 >= day - 7, false)::integer + coalesce(d5 >= day - 7, false)::integer +
            coalesce(d4 >= day - 7, false)::integer + coalesce(d3 >= day - 7, false)::integer +
            coalesce(d2 >= day - 7, false)::integer + coalesce(d1 >= day - 7, false)::integer as recent
    from (
        select
            day,
            event_id,
            user_key,
            event_at,
            item_id,
            behavior,
            lag(day, 20) over w as d20, lag(item_id, 20) over w as i20, lag(behavior, 20) over w as b20,
            lag(day, 19) over w as d19, lag(item_id, 19) over w as i19, lag(behavior, 19) over w as b19,
            lag(day, 18) over w as d18, lag(item_id, 18) over w as i18, lag(behavior, 18) over w as b18,
            lag(day, 17) over w as d17, lag(item_id, 17) over w as i17, lag(behavior, 17) over w as b17,
            lag(day, 16) over w as d16, lag(item_id, 16) over w as i16, lag(behavior, 16) over w as b16,
            lag(day, 15) over w as d15, lag(item_id, 15) over w as i15, lag(behavior, 15) over w as b15,
            lag(day, 14) over w as d14, lag(item_id, 14) over w as i14, lag(behavior, 14) over w as b14,
            lag(day, 13) over w as d13, lag(item_id, 13) over w as i13, lag(behavior, 13) over w as b13,
            lag(day, 12) over w as d12, lag(item_id, 12) over w as i12, lag(behavior, 12) over w as b12,
            lag(day, 11) over w as d11, lag(item_id, 11) over w as i11, lag(behavior, 11) over w as b11,
            lag(day, 10) over w as d10, lag(item_id, 10) over w as i10, lag(behavior, 10) over w as b10,
            lag(day, 9) over w as d9, lag(item_id, 9) over w as i9, lag(behavior, 9) over w as b9,
            lag(day, 8) over w as d8, lag(item_id, 8) over w as i8, lag(behavior, 8) over w as b8,
            lag(day, 7) over w as d7, lag(item_id, 7) over w as i7, lag(behavior, 7) over w as b7,
            lag(day, 6) over w as d6, lag(item_id, 6) over w as i6, lag(behavior, 6) over w as b6,
            lag(day, 5) over w as d5, lag(item_id, 5) over w as i5, lag(behavior, 5) over w as b5,
            lag(day, 4) over w as d4, lag(item_id, 4) over w as i4, lag(behavior, 4) over w as b4,
            lag(day, 3) over w as d3, lag(item_id, 3) over w as i3, lag(behavior, 3) over w as b3,
            lag(day, 2) over w as d2, lag(item_id, 2) over w as i2, lag(behavior, 2) over w as b2,
            lag(day, 1) over w as d1, lag(item_id, 1) over w as i1, lag(behavior, 1) over w as b1
        from staging.events
        window w as (partition by user_key order by event_at, event_id, item_id, behavior)
    )
)
where recent > 0;

create table marts.fct_popularity as
select
    day,
    item_id,
    count(*) as events,
    count(distinct user_key) as users,
    count_if(behavior = 'browse')::bigint as browses,
    count_if(behavior = 'click')::bigint as clicks,
    count_if(behavior = 'cart')::bigint as carts,
    count_if(behavior = 'purchase')::bigint as purchases,
    sum(weight::decimal(9, 3))::double as weight
from staging.events
group by all;

create table marts.fct_item_pairs as
with steps as materialized (
    select
        day,
        item_id,
        lead(item_id, 1) over s as i1,
        lead(item_id, 2) over s as i2,
        lead(item_id, 3) over s as i3,
        lead(item_id, 4) over s as i4,
        lead(item_id, 5) over s as i5,
        lead(item_id, 6) over s as i6,
        lead(item_id, 7) over s as i7,
        lead(item_id, 8) over s as i8,
        lead(item_id, 9) over s as i9,
        lead(item_id, 10) over s as i10
    from (
        select day, session_id, item_id, event_at, event_id
        from staging.events
        qualify
            lag(item_id) over (partition by day, session_id order by event_at, event_id, item_id)
            is distinct from item_id
    )
    window s as (partition by day, session_id order by event_at, event_id, item_id)
),

gapped as (
    select day, item_id, i1 as other_item_id, 1.000000000::decimal(18, 9) as weight from steps where i1 != item_id
    union all
    select day, item_id, i2 as other_item_id, 0.800000000::decimal(18, 9) as weight from steps where i2 != item_id
    union all
    select day, item_id, i3 as other_item_id, 0.640000000::decimal(18, 9) as weight from steps where i3 != item_id
    union all
    select day, item_id, i4 as other_item_id, 0.512000000::decimal(18, 9) as weight from steps where i4 != item_id
    union all
    select day, item_id, i5 as other_item_id, 0.409600000::decimal(18, 9) as weight from steps where i5 != item_id
    union all
    select day, item_id, i6 as other_item_id, 0.327680000::decimal(18, 9) as weight from steps where i6 != item_id
    union all
    select day, item_id, i7 as other_item_id, 0.262144000::decimal(18, 9) as weight from steps where i7 != item_id
    union all
    select day, item_id, i8 as other_item_id, 0.209715200::decimal(18, 9) as weight from steps where i8 != item_id
    union all
    select day, item_id, i9 as other_item_id, 0.167772160::decimal(18, 9) as weight from steps where i9 != item_id
    union all
    select day, item_id, i10 as other_item_id, 0.134217728::decimal(18, 9) as weight from steps where i10 != item_id
),

forward as (
    select day, item_id, other_item_id, count(*) as pairs, sum(weight) as weight
    from gapped
    group by all
)

select day, item_id, other_item_id, sum(pairs)::bigint as pairs, sum(weight)::double as weight
from (
    select * from forward
    union all
    select day, other_item_id, item_id, pairs, (weight / 2)::decimal(28, 9) from forward
)
group by all;

create view marts.fct_events as
select
    e.event_id,
    e.day,
    e.event_at,
    e.user_key,
    e.session_id,
    e.item_id,
    e.behavior,
    e.weight,
    e.price,
    e.quantity,
    case
        when e.price is null then null
        when p.q / p.n - (p.s / p.n) ** 2 <= 1e-9 * p.q / p.n then 0.0
        else (e.price - p.s / p.n) / sqrt(p.q / p.n - (p.s / p.n) * (p.s / p.n))
    end::double as price_z,
    case
        when a.events is null then null
        when a.q / a.n - (a.s / a.n) * (a.s / a.n) <= 1e-9 * a.q / a.n then 0.0
        else (a.events - a.s / a.n) / sqrt(a.q / a.n - (a.s / a.n) * (a.s / a.n))
    end::double as activity_z,
    e.source,
    e.load_id,
    e.line
from staging.events as e
left join (
    select
        day,
        category,
        sum(prices) over recent as n,
        sum(price_sum) over recent as s,
        sum(price_sum_of_squares) over recent as q
    from staging.categories
    window recent as (
        partition by category order by day range between interval 27 day preceding and current row
    )
) as p
    on e.day = p.day and coalesce(e.category, '(none)') = p.category
left join (
    select
        day,
        user_key,
        events,
        count(*) over recent as n,
        sum(events) over recent as s,
        sum(events * events) over recent as q
    from staging.users
    window recent as (
        partition by user_key order by day range between interval 27 day preceding and current row
    )
) as a
    on e.day = a.day and e.user_key = a.user_key;

create view marts.dim_item_versions as
with known as (
    select item_id, min(valid_from) as since
    from staging.products
    group by all
)

select item_id, valid_from, title, description, category, brand, price, in_stock
from staging.products
union all
select item_id, day, title, null, category, brand, price, null
from (
    select daily.*
    from staging.items as daily
    left join known using (item_id)
    where daily.day < known.since or known.since is null
    qualify
        row(title, category, brand, price) is distinct from lag(row(title, category, brand, price)) over (
            partition by daily.item_id order by day
        )
);

create view marts.dim_items as
with seen as (
    select item_id, min(day) as first_seen_day, max(day) as last_seen_day
    from staging.items
    group by all
)

select
    versions.item_id,
    title,
    description,
    category,
    brand,
    price,
    in_stock,
    first_seen_day,
    last_seen_day
from marts.dim_item_versions as versions
left join seen on versions.item_id = seen.item_id
where versions.valid_from <= coalesce((select max(last_seen_day) from seen), versions.valid_from)
qualify row_number() over (partition by versions.item_id order by versions.valid_from desc) = 1;

create view marts.dim_users as
select
    user_key,
    min(day) as first_day,
    max(day) as last_day,
    sum(events)::bigint as events,
    sum(browses)::bigint as browses,
    sum(clicks)::bigint as clicks,
    sum(carts)::bigint as carts,
    sum(purchases)::bigint as purchases,
    sum(revenue::decimal(28, 4))::double as revenue
from staging.users
group by all;
