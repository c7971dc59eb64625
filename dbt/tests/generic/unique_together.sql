{# The named columns together say which row it is: no two rows have the same. #}
{% test unique_together(model, columns) %}
select
    {{ columns | join(', ') }},
    count(*) as rows
from {{ model }}
group by all
having count(*) > 1
{% endtest %}
