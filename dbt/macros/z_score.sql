{#
    x* = (x − μ) / σ from the count n, sum s and sum of squares q of the relation `sums`; σ of the population.
    Where all values are equal σ is 0, and x* is 0. What rounding leaves of a variance of 0 (below a billionth of
    the mean square) counts as 0. Null where x is null.
#}
{% macro z_score(x, sums) -%}
    {%- set n, s, q = sums ~ '.n', sums ~ '.s', sums ~ '.q' -%}
    case
        when {{ x }} is null then null
        when {{ q }} / {{ n }} - ({{ s }} / {{ n }}) * ({{ s }} / {{ n }}) <= 1e-9 * {{ q }} / {{ n }} then 0.0
        else
            ({{ x }} - {{ s }} / {{ n }})
            / sqrt({{ q }} / {{ n }} - ({{ s }} / {{ n }}) * ({{ s }} / {{ n }}))
    end::double
{%- endmacro %}
