{% for publisher in var('publishers').keys() | list + ['other'] %}
select * from {{ ref('stg_' ~ publisher ~ '__events') }}
{{ 'union all' if not loop.last }}
{% endfor %}
