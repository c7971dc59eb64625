{# How many times one price is dearer or cheaper than the other; null where there is no price. #}
{% macro times_apart(price, usual) -%}
    case when {{ price }} > 0 then greatest({{ price }} / {{ usual }}, {{ usual }} / {{ price }}) end
{%- endmacro %}
