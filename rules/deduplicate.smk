# Find duplicates among all shards of a source, gather what is held out, and add up the counts.


rule deduplicate:
    input:
        lambda wildcards: graph.corpus_records(Path(study.results) / "corpus" / wildcards.source),
    output:
        "<results>/corpus/{source}/record.json",
    log:
        "<results>/logs/deduplicate-{source}.log",
    conda:
        "../envs/cpu.yaml"
    params:
        study=graph.resolved,
    shell:
        "sidewinder deduplicate --config {params.study} --into $(dirname {output}) --log {log}"
