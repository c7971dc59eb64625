-- Every row that arrived is either kept or removed for exactly one stated reason.
select
    day,
    source,
    sum(rows) filter (where step = 'raw') as arrived,
    coalesce(sum(rows) filter (where step != 'raw'), 0) as accounted_for
from {{ ref('quality_funnel') }}
where {{ in_window('day') }}
group by day, source
having arrived is distinct from accounted_for
