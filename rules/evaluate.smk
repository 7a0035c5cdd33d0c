# Run each suite on each checkpoint.


rule evaluate:
    input:
        blend=graph.blend / "record.json",
        checkpoint="<results>/runs/{run}/{stage}/record.json",
        data=graph.data_manifest,
    output:
        "<results>/runs/{run}/{stage}/eval/{suite}/record.json",
    log:
        "<results>/logs/{run}-{stage}-{suite}.log",
    conda:
        "../envs/cpu.yaml"
    params:
        study=graph.resolved,
    shell:
        "sidewinder evaluate --config {params.study} --into $(dirname {output}) --log {log}"
