# Tokenize each shard of each source, then list the shards and weights that training reads.


rule tokens:
    input:
        # It follows the text of pretraining. Naming that again, for every shard a file with as many inputs as there are
        # shards, would make the time to build the graph grow with the square of their number.
        graph.tokenizer / "record.json",
        lambda wildcards: graph.text_beside(Path(study.results) / "tokens" / wildcards.source / wildcards.shard),
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
        lambda wildcards: graph.tokens_of(Path(study.results) / "tokens" / wildcards.blend),
    output:
        "<results>/tokens/{blend}/record.json",
    log:
        "<results>/logs/{blend}.log",
    localrule: True
    conda:
        "../envs/cpu.yaml"
    params:
        study=graph.resolved,
    shell:
        "sidewinder blend --config {params.study} --into $(dirname {output}) --log {log}"
