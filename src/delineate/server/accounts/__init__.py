"""Who asks, and what they may: tokens of the settings, local accounts or an OpenID provider behind one seam, `Identity`."""
