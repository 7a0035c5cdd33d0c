# Write the model card of each export from the catalog, again whenever the catalog changes.


rule cards:
    input:
        graph.catalog,
    output:
        graph.cards,
    log:
        "<results>/logs/cards.log",
    conda:
        "../envs/cpu.yaml"
    params:
        study=graph.resolved,
    shell:
        "sidewinder cards --config {params.study} --log {log}"
