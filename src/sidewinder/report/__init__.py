"""The report: results/report.html, one self-contained page made from the catalog (`build.build_report`)."""
