# Read, clean and split one shard of a source.


rule corpus:
    input:
        lambda wildcards: graph.files_of(Path(study.results) / "corpus" / wildcards.source / wildcards.shard),
    output:
        "<results>/corpus/{source}/{shard}/record.json",
    log:
        "<results>/logs/corpus-{source}-{shard}.log",
    conda:
        "../envs/cpu.yaml"
    params:
        study=graph.resolved,
    shell:
        "sidewinder corpus --config {params.study} --into $(dirname {output}) --log {log}"
