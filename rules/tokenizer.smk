# Train the SentencePiece tokenizer on a sample of the blend.


rule tokenizer:
    input:
        [graph.corpus(source) / "record.json" for source in study.weights],
    output:
        graph.tokenizer / "record.json",
    log:
        "<results>/logs/tokenizer.log",
    conda:
        "../envs/cpu.yaml"
    threads: 2
    resources:
        mem_mb=max(4000, tokenizer_bytes(study.tokenizer.sample_bytes) // 10**6),
    params:
        study=graph.resolved,
    shell:
        "sidewinder tokenizer --config {params.study} --log {log}"
