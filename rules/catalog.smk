# Build the DuckDB catalog from the records of all finished jobs.


rule catalog:
    input:
        graph.records,
    output:
        graph.catalog,
    log:
        "<results>/logs/catalog.log",
    conda:
        "../envs/cpu.yaml"
    params:
        study=graph.resolved,
    shell:
        "sidewinder catalog --config {params.study} --log {log}"
