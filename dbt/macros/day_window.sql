{# True for the days this run rebuilds, `ahead` days more where later days depend on them. #}
{% macro in_window(day='day', behind=0, ahead=0) -%}
    {%- set first, last = ('0001-01-01', '9999-12-31') if flags.FULL_REFRESH else (setting('min_day'), setting('max_day')) -%}
    {{ between_days(shifted(first, -behind), shifted(last, ahead), day) }}
{%- endmacro %}

{# Literals, so that files can be pruned. #}
{% macro between_days(first, last, day='day') -%}
    {{ day }} between date '{{ first }}' and date '{{ last }}'
{%- endmacro %}

{# The date `shift` days from `day`, cut off where the calendar ends. #}
{% macro shifted(day, shift) -%}
    {%- set date = modules.datetime.date -%}
    {%- set ordinal = date.fromisoformat(day | string).toordinal() + shift -%}
    {{ date.fromordinal([[ordinal, date.min.toordinal()] | max, date.max.toordinal()] | min).isoformat() }}
{%- endmacro %}

{# Data tests with `where: __window__` look at the days this run rebuilt, not at the whole history. #}
{% macro get_where_subquery(relation) -%}
    {%- set where = config.get('where', '') -%}
    {%- if where -%}
        (
            select * from {{ relation }}
            where {{ where | replace('__window__', in_window('day')) }}
        ) as dbt_subquery
    {%- else -%}
        {{ relation }}
    {%- endif -%}
{%- endmacro %}

{#
    A var that Dagster gives by environment, NIGHTSHELF_MIN_DAY for `min_day`: dbt parses the whole project anew
    where `--vars` are other than last time. Not looked at while it parses, so that what it has parsed holds.
#}
{% macro setting(name) -%}
    {{ env_var('NIGHTSHELF_' ~ name | upper, var(name)) if execute else var(name) }}
{%- endmacro %}
