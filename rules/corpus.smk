# Read, clean, deduplicate and split one source.


rule corpus:
    input:
        lambda wildcards: graph.source_files(Path(study.results) / "corpus" / wildcards.source),
    output:
        "<results>/corpus/{source}/record.json",
    log:
        "<results>/logs/corpus-{source}.log",
    conda:
        "../envs/cpu.yaml"
    threads: 1
    params:
        study=graph.resolved,
    shell:
        "sidewinder corpus --config {params.study} --into $(dirname {output}) --workers {threads} --log {log}"
