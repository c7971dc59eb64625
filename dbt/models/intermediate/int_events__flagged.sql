{{ config(materialized='incremental') }}

with events as (
    select
        *,
        hash(day, source, event_id, item_id) as mark
    from {{ ref('int_events__unioned') }}
    where {{ in_window('day') }}
),

-- Events that may have come more than once: hashes are quick to count, and that two events share one does no harm.
suspects as (
    select mark from events
    group by all
    having count(*) > 1
),

lone as (
    select events.* from events
    anti join suspects
        on events.mark = suspects.mark
),

repeated as (
    select events.* from events
    semi join suspects
        on events.mark = suspects.mark
),

-- Which row of an event that came more than once is kept depends on what the rows say alone: not on the files they
-- came in, nor on the order of those. The item tells apart what an order, or a list that was shown, writes under one
-- id. Only what may be repeated is put in order: that is what takes the time.
numbered as (
    select
        *,
        1 as copy
    from lone
    union all
    select
        *,
        row_number() over (
            partition by day, source, event_id, item_id
            order by
                received_at nulls last, event_at, user_key, code, price, quantity, currency, title, category, brand,
                load_id, line
        ) as copy
    from repeated
),

once as (
    select * from numbered
    where copy = 1
),

-- Whoever has no more rows than actions are allowed is no program, whatever the rows are.
busy as (
    select
        day,
        user_key
    from once
    group by all
    having count(*) > {{ [var('most_actions_per_minute'), var('most_actions_per_day')] | min }}
),

actions as (
    select distinct
        once.day,
        once.user_key,
        once.code,
        once.event_at
    from once
    inner join busy
        on once.day = busy.day and once.user_key = busy.user_key
),

paces as (
    select
        day,
        user_key,
        date_trunc('minute', event_at) as minute,
        count(*) as actions
    from actions
    group by all
),

bots as (
    select
        day,
        user_key
    from paces
    group by all
    having
        sum(actions) > {{ var('most_actions_per_day') }}
        or max(actions) > {{ var('most_actions_per_minute') }}
),

-- The catalogue as it was on the day says the category; the event's own word stands where it is silent. With the
-- price it is the other way round.
items as (
    select distinct
        day,
        item_id
    from once
),

catalogue as (
    select
        items.day,
        items.item_id,
        products.category,
        products.price
    from items
    asof inner join {{ ref('stg_products') }} as products
        on items.item_id = products.item_id and items.day >= products.valid_from
),

priced as (
    select
        once.day,
        once.item_id,
        once.currency,
        once.price,
        coalesce(catalogue.category, once.category) as category
    from once
    left join catalogue
        on once.day = catalogue.day and once.item_id = catalogue.item_id
    where once.price > 0 and once.price <= {{ var('highest_price') }}
),

item_medians as (
    select
        day,
        item_id,
        currency,
        median(price) as price
    from priced
    group by all
    having count(*) >= 3
),

category_medians as (
    select
        day,
        category,
        currency,
        median(price) as price
    from priced
    where category is not null
    group by all
    having count(*) >= 30
),

judged as (
    select
        numbered.day,
        numbered.event_id,
        numbered.source,
        numbered.event_at,
        numbered.user_key,
        numbered.item_id,
        numbered.title,
        coalesce(catalogue.category, numbered.category) as category,
        numbered.brand,
        coalesce(of_publisher.label, of_anyone.label) as label,
        coalesce(of_publisher.weight, of_anyone.weight) as weight,
        numbered.price,
        catalogue.price as catalogue_price,
        numbered.quantity,
        numbered.load_id,
        numbered.line,
        numbered.copy,
        numbered.objection,
        bots.user_key is not null as is_bot,
        {{ times_apart('numbered.price', 'item_medians.price') }} as item_ratio,
        {{ times_apart('numbered.price', 'category_medians.price') }} as category_ratio
    from numbered
    left join {{ ref('taxonomy') }} as of_publisher
        on numbered.publisher = of_publisher.source and numbered.code = of_publisher.code
    left join {{ ref('taxonomy') }} as of_anyone
        on of_anyone.source = '*' and numbered.code = of_anyone.code
    left join bots
        on numbered.day = bots.day and numbered.user_key = bots.user_key
    left join catalogue
        on numbered.day = catalogue.day and numbered.item_id = catalogue.item_id
    left join item_medians
        on
            numbered.day = item_medians.day
            and numbered.item_id = item_medians.item_id
            and numbered.currency is not distinct from item_medians.currency
    left join category_medians
        on
            numbered.day = category_medians.day
            and coalesce(catalogue.category, numbered.category) = category_medians.category
            and numbered.currency is not distinct from category_medians.currency
)

select
    day,
    event_id,
    source,
    event_at,
    user_key,
    item_id,
    title,
    category,
    brand,
    case when label in ('browse', 'click', 'cart', 'purchase') then label end as behavior,
    case when label in ('browse', 'click', 'cart', 'purchase') then weight end as weight,
    case when price > 0 then price else catalogue_price end as price,
    quantity,
    load_id,
    line,
    case
        when copy > 1 then 'duplicate'
        when user_key is null or item_id is null then 'missing_key'
        when objection is not null then objection
        when label is null then 'unknown_behavior'
        when label = 'ignored' then 'ignored_behavior'
        when label = 'refund' or quantity < 0 then 'refund'
        when is_bot then 'bot'
        when price < 0 or price > {{ var('highest_price') }} then 'price_out_of_range'
        -- Sites write 0 for "no price"; nobody pays it.
        when price = 0 and label = 'purchase' then 'price_out_of_range'
        when quantity = 0 or quantity > {{ var('highest_quantity') }} then 'quantity_out_of_range'
        when
            coalesce(
                item_ratio > {{ var('item_price_ratio') }},
                category_ratio > {{ var('category_price_ratio') }}
            ) then 'price_outlier'
    end as removed_because
from judged
