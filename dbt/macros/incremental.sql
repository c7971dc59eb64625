{#
    How an incremental table is made: the days of the run's window are deleted and inserted anew in one transaction,
    so a day that has lost all its rows is emptied. This takes the place of dbt-duckdb's own materialization, which
    writes all rows twice, into a temporary table first, and works on a window as a whole, however many days it has.
    Here the query goes straight into the table, one portion after another, and memory stays that of a portion.

    Config `portions_of`: 'day', or the column whose values are shared out where rows depend on those of other days.
    Config `days_ahead`: such a model rebuilds that many later days as well.
#}
{% materialization incremental, adapter='duckdb' %}
    {%- set there = load_cached_relation(this) -%}
    {%- set table = this.incorporate(type='table') -%}
    {%- set anew = there is none or there.is_view or should_full_refresh() -%}
    {%- set column = config.get('portions_of', 'day') -%}
    {%- set whole = in_window('day') if column == 'day' else share_of(column) -%}
    {%- if whole not in sql -%}
        {% do exceptions.raise_compiler_error(model.name ~ " is made in portions, so it must read only " ~ whole) %}
    {%- elif not anew -%}
        {% do assert_same_columns(there) %}
    {%- endif -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% call statement('main') -%}
        {% if anew %}
            {{ "drop " ~ there.type ~ " " ~ there ~ ";" if there is not none }}
            {{ create_table_as(False, table, "select * from (" ~ sql ~ ") limit 0") }};
        {% else %}
            delete from {{ table }} where {{ in_window('day', ahead=config.get('days_ahead', 0)) }};
        {% endif %}
        {% for portion in portions(column) %}
            insert into {{ table }} by name {{ sql | replace(whole, portion) }};
        {% endfor %}
    {%- endcall %}
    {% do persist_docs(table, model) %}
    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do adapter.commit() %}
    {{ run_hooks(post_hooks, inside_transaction=False) }}
    {{ return({'relations': [table]}) }}
{% endmaterialization %}

{#
    Conditions on what a model reads, each true for about `rows_at_once` rows of those days of its first input that are
    made anew. A day is not cut.
#}
{% macro portions(column) %}
    {%- set first_input = model.depends_on.nodes[0] -%}
    {%- set input = (graph.nodes.get(first_input) or graph.sources[first_input]).relation_name -%}
    {%- set reach = config.get('days_ahead', 0) -%}
    {%- set days = run_query(
        "select day, sum(count(*)) over (order by day) // " ~ var('rows_at_once') ~ " as portion from " ~ input
        ~ " where " ~ in_window('day', ahead=reach) ~ " group by day order by day"
    ).rows -%}
    {%- set made = [] -%}
    {%- if column == 'day' -%}
        {%- for portion in days | groupby(1) -%}
            {% do made.append(between_days(portion.list[0][0], portion.list[-1][0])) %}
        {%- endfor -%}
    {%- elif days -%}
        {%- set shares = days[-1][1] | int + 1 -%}
        {%- for share in range(shares) -%}
            {% do made.append(share_of(column, share, shares)) %}
        {%- endfor -%}
    {%- endif -%}
    {{ return(made) }}
{% endmacro %}

{# True for one of so many equal shares of a column's values; as it stands in a model, for all of them. #}
{% macro share_of(column, share=0, shares=1) -%}
    hash({{ column }}) % {{ shares }} = {{ share }}
{%- endmacro %}

{# Of rows whose columns have changed nobody could say what those of older days mean. #}
{% macro assert_same_columns(table) %}
    {%- set changed = run_query(
        "with asked as (select column_name, column_type from (describe " ~ sql ~ ")), "
        ~ "kept as (select column_name, column_type from (describe " ~ table ~ ")) "
        ~ "select distinct column_name from ((from asked except from kept) union all (from kept except from asked)) "
        ~ "order by column_name"
    ).columns[0].values() -%}
    {%- if changed -%}
        {% do exceptions.raise_compiler_error(
            "the columns of " ~ table ~ " are no longer those of the model: " ~ changed | join(', ')
            ~ ". Make all its days anew: dbt build --full-refresh --select " ~ model.name ~ "+"
        ) %}
    {%- endif -%}
{% endmacro %}
