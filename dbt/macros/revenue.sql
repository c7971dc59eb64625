{# Money taken, in the shop's currency: price times quantity of purchases. Exact, whatever the order of rows. #}
{% macro revenue() -%}
    coalesce(sum((price * coalesce(quantity, 1))::decimal(28, 4)) filter (where behavior = 'purchase'), 0)::double
{%- endmacro %}
