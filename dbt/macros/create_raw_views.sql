{# Views over the raw zone. `day` is the folder's name, so a filter on it reads only the asked days' files. #}
{% macro create_raw_views() %}
    {% set loads = env_var('NIGHTSHELF_HOME', '../home') | replace("'", "''") ~ '/raw/loads' %}
    create schema if not exists raw;

    create or replace view raw.behavior_events as
    select * from read_parquet(
        '{{ loads }}/*/events/*/*.parquet', hive_partitioning = true, hive_types = {'day': date}
    );

    create or replace view raw.products as
    select * from read_parquet('{{ loads }}/*/products.parquet');

    create or replace view raw.rejects as
    select * from read_parquet('{{ loads }}/*/rejects.parquet');

    create or replace view raw.ingest_outcomes as
    select * from read_json(
        '{{ loads }}/**/outcome.json',
        columns = {
            load_id: 'VARCHAR', source: 'VARCHAR', file: 'VARCHAR', sha256: 'VARCHAR', bytes: 'BIGINT', kind: 'VARCHAR',
            status: 'VARCHAR', lines: 'BIGINT', header_lines: 'BIGINT', blank_lines: 'BIGINT', lines_loaded: 'BIGINT',
            lines_refused: 'BIGINT', rows_loaded: 'BIGINT', rows_refused: 'BIGINT', days: 'JSON', contract: 'VARCHAR',
            reason: 'VARCHAR', detail: 'VARCHAR', attempts: 'BIGINT', began_at: 'TIMESTAMP', seconds: 'DOUBLE'
        }
    );
{% endmacro %}
