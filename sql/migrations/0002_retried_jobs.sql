-- Deleting a job asks whether another one names it as the job that it repeats: without an index, by reading all jobs.
CREATE INDEX jobs_retried_from ON jobs (retried_from) WHERE retried_from IS NOT NULL;
