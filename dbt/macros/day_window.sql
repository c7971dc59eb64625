{# True for the days this run rebuilds, `ahead` days more where later days depend on them. #}
{% macro in_window(day='day', behind=0, ahead=0) -%}
    {%- if flags.FULL_REFRESH -%}
        true
    {%- else -%}
        {{ day }} between {{ day_literal(setting('min_day'), -behind) }} and {{ day_literal(setting('max_day'), ahead) }}
    {%- endif -%}
{%- endmacro %}

{# The date `shift` days from `day`, cut off where the calendar ends. Literals, so that files can be pruned. #}
{% macro day_literal(day, shift=0) -%}
    {%- set date = modules.datetime.date -%}
    {%- set ordinal = date.fromisoformat(day | string).toordinal() + shift -%}
    {%- set ordinal = [[ordinal, date.min.toordinal()] | max, date.max.toordinal()] | min -%}
    date '{{ date.fromordinal(ordinal).isoformat() }}'
{%- endmacro %}

{#
    Incremental strategy `day_window`: what the run rebuilds is deleted and inserted in one transaction. Unlike
    delete+insert with a unique key, it also empties a day that has lost all its rows.
    Config `days_ahead`: a model whose rows depend on earlier days rebuilds that many later days as well.
#}
{% macro get_incremental_day_window_sql(arg_dict) %}
    {%- set columns = arg_dict['dest_columns'] | map(attribute='quoted') | join(', ') -%}
    delete from {{ arg_dict['target_relation'] }}
    where {{ in_window('day', ahead=config.get('days_ahead', 0)) }};

    insert into {{ arg_dict['target_relation'] }} ({{ columns }})
    select {{ columns }} from {{ arg_dict['temp_relation'] }}
{% endmacro %}

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
