"""Files from outside, hostile until checked, and files that captures and attacks write."""
