# Train each model from scratch. Saves lie in the undeclared folder state/, so that a killed job resumes.


rule pretrain:
    input:
        graph.blend / "record.json",
    output:
        "<results>/runs/{run}/{stage}/record.json",
    log:
        "<results>/logs/{run}-{stage}.log",
    wildcard_constraints:
        stage=r"pretrain-\d+",
    priority: 100
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
