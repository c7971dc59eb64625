-- Of several rows for one item and day, the file that came in last is right, and in it the last line.
select
    products.item_id,
    coalesce(products.valid_from, date '1970-01-01') as valid_from,
    nullif(trim(products.title), '') as title,
    nullif(trim(products.description), '') as description,
    nullif(trim(products.category), '') as category,
    nullif(trim(products.brand), '') as brand,
    case when products.price > 0 and products.price <= {{ var('highest_price') }} then products.price end as price,
    products.currency,
    products.in_stock,
    products.source,
    products.load_id,
    products.line
from {{ source('raw', 'products') }} as products
left join {{ source('raw', 'ingest_outcomes') }} as outcomes
    on products.load_id = outcomes.load_id and outcomes.status != 'duplicate'
where products.item_id is not null
qualify
    row_number() over (
        partition by products.item_id, coalesce(products.valid_from, date '1970-01-01')
        order by outcomes.began_at desc nulls last, products.load_id desc, products.line desc
    ) = 1
