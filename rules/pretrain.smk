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
    conda:
        "../envs/cpu.yaml"
    threads: study.training.threads
    params:
        study=graph.resolved,
    shell:
        "sidewinder pretrain --config {params.study} --into $(dirname {output}) --log {log}"
