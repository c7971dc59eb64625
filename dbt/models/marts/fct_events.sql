{{ config(materialized='view') }}

select
    event_id,
    day,
    event_at,
    user_key,
    session_id,
    item_id,
    behavior,
    weight::double as weight,
    price,
    quantity,
    price_z,
    activity_z,
    source,
    load_id,
    line
from {{ ref('int_events__standardised') }}
