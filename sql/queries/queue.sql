-- The queue as everybody may see it: how much waits and for how long, never whose.

-- name: queue_depth
-- Jobs that wait and run, by kind and tier; each part has its partial index.
SELECT q.kind, q.tier, sum(q.queued)::integer AS queued, sum(q.running)::integer AS running,
       max(q.oldest_wait_s) AS oldest_wait_s
FROM (SELECT j.kind, j.tier, count(*) AS queued, 0 AS running,
             greatest(0, extract(epoch FROM now() - min(j.queued_at)))::double precision AS oldest_wait_s
      FROM jobs j WHERE j.state = 'queued' GROUP BY j.kind, j.tier
      UNION ALL
      SELECT j.kind, j.tier, 0, count(*), NULL FROM jobs j WHERE j.state = 'running' GROUP BY j.kind, j.tier) q
GROUP BY q.kind, q.tier ORDER BY q.kind, q.tier
