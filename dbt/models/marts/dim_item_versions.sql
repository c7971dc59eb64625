{{ config(materialized='view') }}

with catalogue as (
    select * from {{ ref('stg_products') }}
),

known as (
    select
        item_id,
        min(valid_from) as since
    from catalogue
    group by all
),

-- Until the catalogue knows an item, the events that name it are all there is; a version begins where they change.
told as (
    select daily.*
    from {{ ref('int_items__daily') }} as daily
    left join known
        on daily.item_id = known.item_id
    where daily.day < known.since or known.since is null
),

changes as (
    select * from told
    qualify
        row(title, category, brand, price) is distinct from lag(row(title, category, brand, price)) over (
            partition by item_id
            order by day
        )
)

select
    item_id,
    valid_from,
    title,
    description,
    category,
    brand,
    price,
    in_stock
from catalogue
union all
select
    item_id,
    day as valid_from,
    title,
    null as description,
    category,
    brand,
    price,
    null as in_stock
from changes
