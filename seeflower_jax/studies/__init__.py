"""The paper's tables and figures, the ablation of the recipes, and the quick start.

runs = reproduce.plan(rows.select(["table_4.1"], "full"), seeds=[0], out="runs")
reproduce.run_all(runs)
record.record(runs[0].workdir, "results")
record.write_results("results", "RESULTS.md")
"""
