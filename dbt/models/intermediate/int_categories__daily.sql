{{ config(materialized='incremental') }}

-- Decimals add up to the same digit in any order; doubles do not, and days would differ by how they were built.
select
    day,
    coalesce(category, '(none)') as category,
    count(*) as prices,
    sum(price::decimal(18, 4))::double as price_sum,
    sum((price * price)::decimal(28, 6))::double as price_sum_of_squares
from {{ ref('int_events__sessionised') }}
where {{ in_window('day') }} and price is not null
group by all
