# Tokenize each shard of each source, then list the shards and weights that training reads.


rule tokens:
    input:
        # It follows all text. Naming that again, for every shard a file with as many inputs as there are shards, would
        # make the time to build the graph grow with the square of their number.
        graph.tokenizer / "record.json",
    output:
        "<results>/tokens/{source}/{shard}/record.json",
    log:
        "<results>/logs/tokens-{source}-{shard}.log",
    conda:
        "../envs/cpu.yaml"
    params:
        study=graph.resolved,
    shell:
        "sidewinder tokens --config {params.study} --into $(dirname {output}) --threads {threads} --log {log}"


rule blend:
    input:
        [
            graph.tokens(source, shard) / "record.json"
            for source in graph.source_configs
            for shard in graph.shards(source)
        ],
    output:
        graph.blend / "record.json",
    log:
        "<results>/logs/blend.log",
    localrule: True
    conda:
        "../envs/cpu.yaml"
    params:
        study=graph.resolved,
    shell:
        "sidewinder blend --config {params.study} --log {log}"
