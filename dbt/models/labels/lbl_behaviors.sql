{{ config(materialized='incremental') }}

select
    day,
    user_key,
    item_id,
    -- Weights grow with the strength of a behaviour.
    arg_max(behavior, weight) as behavior,
    max(weight)::double as weight,
    count_if(behavior = 'browse')::integer as browses,
    count_if(behavior = 'click')::integer as clicks,
    count_if(behavior = 'cart')::integer as carts,
    count_if(behavior = 'purchase')::integer as purchases,
    {{ revenue() }} as revenue
from {{ ref('int_events__sessionised') }}
where {{ in_window('day') }}
group by all
