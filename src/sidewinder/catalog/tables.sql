-- The tables of a study's catalog. They are filled from records, metrics and scores alone, so that the file can be
-- rebuilt at any time. Times are UTC. `current` is false for what an earlier configuration of the study left behind.
--
-- How the keys fit together:
--   a run is one model trained from one seed, a folder below results/runs:   hybrid-s1-3f9a2c1b
--   a stage is the pretraining or one extension of a run:                    hybrid-s1-3f9a2c1b/pretrain-256
--   a job is one folder with a record, written relative to the results:      runs/hybrid-s1-3f9a2c1b/pretrain-256
--   an artifact is one file with one content, path and digest:               results/…/model.safetensors@0f3c5a7b9d1e

CREATE TABLE study (                    -- at most one row: the study as it was last run
    name VARCHAR,
    config JSON,                        -- every setting, defaults written out
    sha256 VARCHAR                      -- digest of the configuration
);

CREATE TABLE runs (
    run VARCHAR PRIMARY KEY,
    model VARCHAR NOT NULL,             -- its name in config.yaml
    seed BIGINT,
    fingerprint VARCHAR,                -- the configuration, upstream included, that made this run a folder of its own
    pattern VARCHAR,                    -- one letter a layer: M Mamba-2, m Mamba-1, * attention, - MLP
    layers BIGINT,
    hidden_size BIGINT,
    parameters BIGINT,
    non_embedding_parameters BIGINT,
    context_tokens BIGINT,              -- longest context among its finished stages
    tokens BIGINT,                      -- trained on, all finished stages together
    train_s DOUBLE,                     -- spent in training, all finished stages together
    status VARCHAR NOT NULL,            -- finished, or unfinished where a stage has no record
    started_at TIMESTAMP,
    ended_at TIMESTAMP,
    current BOOLEAN NOT NULL
);

CREATE TABLE stages (
    stage VARCHAR PRIMARY KEY,
    run VARCHAR NOT NULL,
    model VARCHAR NOT NULL,
    seed BIGINT,
    kind VARCHAR NOT NULL,              -- pretrain or extend
    parent VARCHAR,                     -- the stage whose checkpoint it started from
    context_tokens BIGINT,
    batch_sequences BIGINT,
    learning_rate DOUBLE,               -- peak
    steps BIGINT,
    tokens BIGINT,                      -- of this stage
    parent_tokens BIGINT,               -- trained on before this stage
    final_loss DOUBLE,
    flops_per_token DOUBLE,
    train_s DOUBLE,                     -- in training steps, all attempts together
    tokens_per_s DOUBLE,
    peak_memory_bytes BIGINT,           -- of the process, in the host's memory; a GPU's is memory_bytes in metrics
    attempts BIGINT,                    -- 1 where it was never interrupted
    status VARCHAR NOT NULL,            -- finished or unfinished
    job VARCHAR NOT NULL,
    started_at TIMESTAMP,
    ended_at TIMESTAMP,
    current BOOLEAN NOT NULL
);

CREATE TABLE params (                   -- every setting of every stage, by dotted key
    stage VARCHAR NOT NULL,
    run VARCHAR NOT NULL,
    key VARCHAR NOT NULL,               -- training.learning_rate
    value VARCHAR,                      -- text as it is, everything else as JSON
    type VARCHAR NOT NULL,              -- string, number, boolean, null, array
    PRIMARY KEY (stage, key)
);

CREATE TABLE metrics (                  -- one row a number; the view `steps` has one row a step
    stage VARCHAR NOT NULL,
    run VARCHAR NOT NULL,
    step BIGINT NOT NULL,
    tokens BIGINT,                      -- of this stage
    total_tokens BIGINT,                -- of this stage and all before it
    name VARCHAR NOT NULL,              -- loss, learning_rate, gradient_norm, tokens_per_s, …
    value DOUBLE,
    time TIMESTAMP
);

CREATE TABLE events (                   -- what else a training run wrote down: start, resume, save, warning, end
    stage VARCHAR NOT NULL,
    run VARCHAR NOT NULL,
    place BIGINT NOT NULL,              -- line of metrics.jsonl
    event VARCHAR NOT NULL,
    step BIGINT,
    time TIMESTAMP,
    detail JSON
);

CREATE TABLE attempts (                 -- one row each time that a stage was started or went on
    stage VARCHAR NOT NULL,
    run VARCHAR NOT NULL,
    attempt BIGINT NOT NULL,            -- from 1
    from_step BIGINT,                   -- null where it ended before training began
    started_at TIMESTAMP,
    ended_at TIMESTAMP,
    reason VARCHAR,                     -- finished, timeout, preempted, node failed, requeued, killed, cancelled, …
    error VARCHAR,                      -- what the job said, where it failed by itself
    launcher VARCHAR,                   -- slurm, local, debug; null where it ran in the workflow's own process
    launched_job VARCHAR,               -- number of the launcher's job
    nodes VARCHAR,
    code_sha256 VARCHAR
);

CREATE TABLE checkpoints (
    artifact VARCHAR PRIMARY KEY,
    stage VARCHAR NOT NULL,
    run VARCHAR NOT NULL,
    context_tokens BIGINT,
    step BIGINT,
    tokens BIGINT,                      -- trained on, parents included
    path VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    bytes BIGINT NOT NULL,
    current BOOLEAN NOT NULL
);

CREATE TABLE evals (                    -- one row a score
    stage VARCHAR NOT NULL,
    run VARCHAR NOT NULL,
    suite VARCHAR NOT NULL,             -- its name in config.yaml
    kind VARCHAR,                       -- bits_per_byte, phonebook, needle, harness
    task VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    variant VARCHAR,                    -- standard or reversed, where a task has variants
    context_tokens BIGINT,              -- length of the prompt, where a task has lengths
    part_of VARCHAR,                    -- the group, such as mmlu, that the task is a part of
    value DOUBLE,
    stderr DOUBLE,
    n BIGINT,                           -- samples
    artifact VARCHAR NOT NULL,          -- scores.json: where a lineage starts
    checkpoint VARCHAR,                 -- artifact of the weights
    job VARCHAR NOT NULL,
    versions JSON,                      -- of the evaluator and of its tasks
    current BOOLEAN NOT NULL
);

CREATE TABLE exports (
    job VARCHAR PRIMARY KEY,
    stage VARCHAR NOT NULL,
    run VARCHAR NOT NULL,
    path VARCHAR NOT NULL,              -- folder to load
    model_class VARCHAR,                -- of the other system
    files BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    max_logit_difference DOUBLE,        -- largest absolute difference between our logits and the other system's
    tokenizer_mismatches BIGINT,        -- held-out documents that the two tokenizers encode differently
    current BOOLEAN NOT NULL
);

CREATE TABLE sources (                  -- one row a corpus job: documents that a source gave, before tokenizing
    job VARCHAR PRIMARY KEY,
    source VARCHAR NOT NULL,
    language VARCHAR,
    licence VARCHAR,
    documents BIGINT,                   -- kept for training
    bytes BIGINT,
    heldout_documents BIGINT,
    heldout_bytes BIGINT,
    read_documents BIGINT,              -- before anything was dropped
    dropped_documents BIGINT,           -- by all filters together
    current BOOLEAN NOT NULL
);

CREATE TABLE filters (                  -- documents and bytes in and out of each step that cleaned a source, in order
    job VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    place BIGINT NOT NULL,              -- from 1
    step VARCHAR NOT NULL,              -- read, length, …, duplicates
    documents_in BIGINT,
    documents_out BIGINT,
    bytes_in BIGINT,
    bytes_out BIGINT,
    PRIMARY KEY (job, place)
);

CREATE TABLE dropped (                  -- why the steps of `filters` dropped documents
    job VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    place BIGINT NOT NULL,
    step VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    documents BIGINT,
    bytes BIGINT,                       -- also those that a step cut out of documents that it kept
    PRIMARY KEY (job, place, reason)
);

CREATE TABLE dropped_samples (          -- a few documents of each of them, shortened
    job VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    place BIGINT NOT NULL,
    step VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    document VARCHAR,
    text VARCHAR
);

CREATE TABLE shards (                   -- one row a tokenized shard
    job VARCHAR PRIMARY KEY,
    source VARCHAR NOT NULL,
    shard VARCHAR NOT NULL,             -- train-00000 or heldout-00000
    split VARCHAR NOT NULL,             -- train or heldout
    documents BIGINT,
    tokens BIGINT,
    text_bytes BIGINT,
    encoder VARCHAR,                    -- what made the ids, the same as the tokenizer's own
    compared_documents BIGINT,          -- of this shard, on which the faster encoder was compared with the tokenizer
    differing_documents BIGINT,         -- if any: the tokenizer itself made the ids
    current BOOLEAN NOT NULL
);

CREATE TABLE blends (                   -- share of each source in the training tokens
    job VARCHAR NOT NULL,
    source VARCHAR NOT NULL,
    weight DOUBLE,
    current BOOLEAN NOT NULL,
    PRIMARY KEY (job, source)
);

CREATE TABLE jobs (                     -- one row a record
    job VARCHAR PRIMARY KEY,
    kind VARCHAR NOT NULL,              -- corpus, tokenizer, tokens, blend, pretrain, extend, evaluate, export
    name VARCHAR NOT NULL,              -- what people call it: hybrid-s1/pretrain-256/phonebook
    identity VARCHAR NOT NULL,          -- digest of kind, configuration and inputs
    run VARCHAR,
    stage VARCHAR,
    suite VARCHAR,
    config JSON NOT NULL,
    config_sha256 VARCHAR NOT NULL,
    started_at TIMESTAMP,
    ended_at TIMESTAMP,
    wall_s DOUBLE,
    cpu_s DOUBLE,
    peak_memory_bytes BIGINT,
    version VARCHAR,                    -- of Sidewinder
    code_sha256 VARCHAR,                -- of its sources
    commit VARCHAR,                     -- git, where it ran from a checkout
    dirty BOOLEAN,                      -- whether tracked files differed from that commit
    environment VARCHAR,
    host VARCHAR,
    cores BIGINT,
    slurm_job_id VARCHAR,
    command VARCHAR,
    current BOOLEAN NOT NULL
);

CREATE TABLE facts (                    -- everything that jobs wrote into their records, by dotted key
    job VARCHAR NOT NULL,
    key VARCHAR NOT NULL,
    value VARCHAR,
    number DOUBLE,                      -- the value, where it is a number
    PRIMARY KEY (job, key)
);

CREATE TABLE environments (
    environment VARCHAR PRIMARY KEY,    -- first digits of the digest of what follows
    python VARCHAR,
    platform VARCHAR,
    packages JSON                       -- versions of the libraries that shape results
);

CREATE TABLE artifacts (
    artifact VARCHAR PRIMARY KEY,       -- path@digest
    path VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    bytes BIGINT NOT NULL,
    role VARCHAR NOT NULL,              -- what it is to the job that made it, or, for sources, that read it
    job VARCHAR,                        -- that made it; null for what came from outside
    current BOOLEAN NOT NULL            -- whether a current job made or read it
);

CREATE TABLE edges (                    -- lineage: artifact → job (used), job → artifact (produced)
    src VARCHAR NOT NULL,
    dst VARCHAR NOT NULL,
    relation VARCHAR NOT NULL,
    role VARCHAR NOT NULL,
    PRIMARY KEY (src, dst, role)
);

CREATE TABLE warnings (                 -- files that could not be read, or do not belong here
    path VARCHAR NOT NULL,
    message VARCHAR NOT NULL
);
