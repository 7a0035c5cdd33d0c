# Write each checkpoint in Hugging Face format.


rule export:
    input:
        blend=graph.blend / "record.json",
        checkpoint="<results>/runs/{run}/{stage}/record.json",
    output:
        "<results>/runs/{run}/{stage}/export/record.json",
    log:
        "<results>/logs/{run}-{stage}-export.log",
    conda:
        "../envs/cpu.yaml"
    resources:
        mem_mb=lambda wildcards: export_mem_mb(graph, wildcards.run, wildcards.stage),
    params:
        study=graph.resolved,
    shell:
        "sidewinder export --config {params.study} --into $(dirname {output}) --log {log}"
