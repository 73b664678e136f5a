"""From answers to weak and strong internalization, over seeds, with their sentences and number formats."""
