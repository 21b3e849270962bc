"""The book made: notebooks run, results judged, figures drawn, pages built."""
