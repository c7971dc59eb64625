{#
    Rows of one publisher's sources under canonical names, still every row. What the publisher calls a behaviour
    becomes `code`; the taxonomy seed says later what it means.

    publisher: key in the var `publishers` and in the taxonomy; 'other' takes every source that none claims.
    code, item, objection: SQL where the publisher differs. `objection` is null, or why the row is no behaviour.
#}
{% macro staged_events(publisher, code='behavior', item='item_id', objection='cast(null as varchar)') %}
{%- set publishers = var('publishers') %}
select
    day::date as day,
    event_id,
    source,
    {{ 'source' if publisher == 'other' else "'" ~ publisher ~ "'" }} as publisher,
    event_at,
    received_at,
    lower(trim({{ code }})) as code,
    user_key,
    {{ item }} as item_id,
    nullif(trim(title), '') as title,
    nullif(trim(category), '') as category,
    nullif(trim(brand), '') as brand,
    price::double as price,
    currency,
    quantity::double as quantity,
    load_id,
    line::bigint as line,
    {{ objection }} as objection
from {{ source('raw', 'behavior_events') }}
where
    {%- if publisher == 'other' %}
    source not in ('{{ publishers.values() | sum(start=[]) | join("', '") }}')
    {%- else %}
    source in ('{{ publishers[publisher] | join("', '") }}')
    {%- endif %}
{% endmacro %}
