"""The paper's tables and figures: layout, filling, drawing, reproduction."""
