{{ config(materialized='incremental') }}

select
    day,
    user_key,
    count(*) as events,
    count_if(behavior = 'browse') as browses,
    count_if(behavior = 'click') as clicks,
    count_if(behavior = 'cart') as carts,
    count_if(behavior = 'purchase') as purchases,
    {{ revenue() }} as revenue
from {{ ref('int_events__sessionised') }}
where {{ in_window('day') }}
group by all
