-- Videos that their users have deleted in OpenAI's shape: no longer listed there. The job itself stays.
CREATE TABLE deleted_videos (
    job_id     uuid PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    deleted_at timestamptz NOT NULL DEFAULT now()
);
