# Train a pretrained model further at a longer context; every context starts from the pretrained checkpoint.


rule extend:
    input:
        blend=lambda wildcards: graph.blend_of(Path(study.results) / "runs" / wildcards.run / wildcards.stage),
        parent=lambda wildcards: graph.parent_of(Path(study.results) / "runs" / wildcards.run / wildcards.stage),
    output:
        "<results>/runs/{run}/{stage}/record.json",
    log:
        "<results>/logs/{run}-{stage}.log",
    wildcard_constraints:
        stage=r"extend-\d+-[0-9a-f]{8}",
    priority: 50
    localrule: True
    conda:
        "../envs/cpu.yaml"
    threads: lambda wildcards: graph.threads_of(Path(study.results) / "runs" / wildcards.run / wildcards.stage)
    resources:
        tasks=lambda wildcards: graph.processes_of(Path(study.results) / "runs" / wildcards.run / wildcards.stage),
    params:
        study=graph.resolved,
        ask=lambda wildcards, resources: ask_of(resources).options(),
    shell:
        "sidewinder launch --config {params.study} --into $(dirname {output}) --log {log} {params.ask}"
