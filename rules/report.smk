# Build the HTML report from the catalog.


rule report:
    input:
        graph.catalog,
    output:
        graph.report,
    log:
        "<results>/logs/report.log",
    conda:
        "../envs/cpu.yaml"
    params:
        study=graph.resolved,
    shell:
        "sidewinder report --config {params.study} --log {log}"
