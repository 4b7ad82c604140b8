# SPDX-License-Identifier: Apache-2.0
"""The parts of bench_stream.py: corpora, their server, the peers, ours, measuring, the table."""
