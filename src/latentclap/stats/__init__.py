"""Statistics of a listening study (section V-C), and checks of statistics that others published.

`mixed_anova` is the paper's analysis: class between listeners, model within. `post_hoc` are its paired
t-tests. The checks ask whether printed figures fit each other: F with p and partial eta squared, degrees of
freedom with a number of listeners, averages with their parts, means with their number of ratings.
"""

from __future__ import annotations

from latentclap.fad.intervals import percentile_interval
from latentclap.stats.anova import (
    Sphericity,
    by_items,
    min_f_prime,
    mixed_anova,
    sphericity,
)
from latentclap.stats.cells import cell_means, classes_between
from latentclap.stats.checks import (
    Check,
    Grim,
    check_average,
    check_eta_p2,
    check_p,
    eta_p2_from_f,
    grim,
)
from latentclap.stats.course import Course, course
from latentclap.stats.implied import (
    critical_item_sd_of_pair,
    implied_contrasts,
    implied_epsilon,
    implied_error_ms,
    implied_interaction,
    implied_raters,
)
from latentclap.stats.paired import changes_in_words, paired_changes
from latentclap.stats.posthoc import adjust_p, noncentral_t_ci, paired_t_power, post_hoc, raters_needed
from latentclap.stats.ratings import (
    RATING_COLUMNS,
    RatingNoise,
    rated_classes,
    read_ratings,
    simulate_ratings,
)

__all__ = [
    "RATING_COLUMNS",
    "Check",
    "Course",
    "Grim",
    "RatingNoise",
    "Sphericity",
    "adjust_p",
    "by_items",
    "cell_means",
    "changes_in_words",
    "check_average",
    "check_eta_p2",
    "check_p",
    "classes_between",
    "course",
    "critical_item_sd_of_pair",
    "eta_p2_from_f",
    "grim",
    "implied_contrasts",
    "implied_epsilon",
    "implied_error_ms",
    "implied_interaction",
    "implied_raters",
    "min_f_prime",
    "mixed_anova",
    "noncentral_t_ci",
    "paired_changes",
    "paired_t_power",
    "percentile_interval",
    "post_hoc",
    "rated_classes",
    "raters_needed",
    "read_ratings",
    "simulate_ratings",
    "sphericity",
]
