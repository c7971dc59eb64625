{#
    The named columns together say which row it is: no two rows have the same. Rows that share a hash are looked for
    first, since numbers are quicker to group than texts, and only these rows are then compared.
#}
{% test unique_together(model, columns) %}
{% set key = columns | join(', ') %}
select
    {{ key }},
    count(*) as rows
from {{ model }}
where
    hash({{ key }}) in (
        select hash({{ key }}) from {{ model }}
        group by all
        having count(*) > 1
    )
group by all
having count(*) > 1
{% endtest %}
