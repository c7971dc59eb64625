{#
    Memory for DuckDB: NIGHTSHELF_MEMORY_LIMIT, else enough for a few million events a day, so that other work has room
    beside it, and never more than DuckDB itself would take (80 % of the machine's or the container's). What needs more
    goes on in warehouse.duckdb.tmp.
#}
{% macro hold_memory() %}
    {%- set asked = env_var('NIGHTSHELF_MEMORY_LIMIT', '') -%}
    {%- if execute and not asked -%}
        {%- set asked = run_query(
            "select least(parse_formatted_bytes('2500MB'), parse_formatted_bytes(current_setting('memory_limit')))"
        ).columns[0].values()[0] ~ 'B' -%}
    {%- endif -%}
    set memory_limit = '{{ asked }}'
{% endmacro %}
