-- Of several rows for one item and day, the file that came in last is right, and in it the last line. A file that
-- comes again, after another, holds again.
with arrivals as (
    select
        load_id,
        began_at,
        file
    from {{ source('raw', 'ingest_outcomes') }}
    qualify row_number() over (partition by load_id order by began_at desc, file desc) = 1
)

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
left join arrivals on products.load_id = arrivals.load_id
where products.item_id is not null
qualify
    row_number() over (
        partition by products.item_id, coalesce(products.valid_from, date '1970-01-01')
        order by
            arrivals.began_at desc nulls last, arrivals.file desc nulls last, products.load_id desc,
            products.line desc
    ) = 1
