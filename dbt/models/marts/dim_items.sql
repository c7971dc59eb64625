{{ config(materialized='view') }}

with seen as (
    select
        item_id,
        min(day) as first_seen_day,
        max(day) as last_seen_day
    from {{ ref('int_items__daily') }}
    group by all
),

today as (
    select max(last_seen_day) as day from seen
),

versions as (
    select versions.*
    from {{ ref('dim_item_versions') }} as versions
    cross join today
    where versions.valid_from <= coalesce(today.day, versions.valid_from)
    qualify
        row_number() over (
            partition by versions.item_id
            order by versions.valid_from desc
        ) = 1
)

select
    versions.item_id,
    versions.title,
    versions.description,
    versions.category,
    versions.brand,
    versions.price,
    versions.in_stock,
    seen.first_seen_day,
    seen.last_seen_day
from versions
left join seen
    on versions.item_id = seen.item_id
