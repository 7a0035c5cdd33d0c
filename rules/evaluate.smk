# Run each suite on each checkpoint: one job, of as many processes as the suite asks for.


rule evaluate:
    input:
        blend=graph.blend / "record.json",
        checkpoint="<results>/runs/{run}/{stage}/record.json",
        files=lambda wildcards: inputs_at(graph, *wildcards),
    output:
        "<results>/runs/{run}/{stage}/eval/{suite}/record.json",
    log:
        "<results>/logs/{run}-{stage}-{suite}.log",
    conda:
        "../envs/cpu.yaml"
    threads: lambda wildcards: size_at(graph, *wildcards).threads
    resources:
        gpu=lambda wildcards: size_at(graph, *wildcards).gpus,
        mem_mb=lambda wildcards: size_at(graph, *wildcards).mem_mb,
        nodes=1,
    params:
        study=graph.resolved,
    shell:
        "sidewinder evaluate --config {params.study} --into $(dirname {output}) --log {log}"
