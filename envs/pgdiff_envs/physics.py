"""MuJoCo model of the point mass, with the constants of D4RL's `d4rl/pointmaze/maze_model.py`.

D4RL's model was written for MuJoCo 2. Textures, lights and sites are omitted because they do not
affect the state, and `coordinate="local"` because current MuJoCo rejects it (it is the default).
"""

import math

from pgdiff_envs.layouts import BALL_RADIUS, BODY_OFFSET, WALL_OFFSET, Layout

TIMESTEP = 0.01
DAMPING = 1.0
DENSITY = 1000.0
GEAR = 100.0
MAX_VELOCITY = 5.0
#: Mass of the ball in kg, about 4.19.
MASS = DENSITY * 4.0 / 3.0 * math.pi * BALL_RADIUS**3


def build_xml(layout: Layout) -> str:
    """Return the MuJoCo XML of a ball on two motorised slides in a maze of boxes."""
    walls = "\n".join(
        f'    <geom name="wall_{w}_{h}" type="box" conaffinity="1" size="0.5 0.5 0.2" '
        f'pos="{w + WALL_OFFSET} {h + WALL_OFFSET} 0"/>'
        for w, row in enumerate(layout.rows)
        for h, letter in enumerate(row)
        if letter == "#"
    )
    # The plane touches the ball, whose joints cannot move along its normal. It has no effect, but
    # it is part of MuJoCo's solver problem and is kept for parity with D4RL.
    return f"""
<mujoco model="point_maze">
  <compiler inertiafromgeom="true" angle="radian"/>
  <option timestep="{TIMESTEP}" gravity="0 0 0" iterations="20" integrator="Euler"/>
  <default>
    <joint damping="{DAMPING}" limited="false"/>
    <geom friction=".5 .1 .1" density="{DENSITY}" margin="0.002" condim="1"
          contype="2" conaffinity="1"/>
  </default>
  <worldbody>
    <geom name="ground" type="plane" size="40 40 0.25" pos="0 0 -0.1" contype="1" conaffinity="0"/>
    <body name="particle" pos="{BODY_OFFSET} {BODY_OFFSET} 0">
      <geom name="particle_geom" type="sphere" size="{BALL_RADIUS}" contype="1"/>
      <joint name="ball_x" type="slide" pos="0 0 0" axis="1 0 0"/>
      <joint name="ball_y" type="slide" pos="0 0 0" axis="0 1 0"/>
    </body>
{walls}
  </worldbody>
  <actuator>
    <motor joint="ball_x" ctrlrange="-1 1" ctrllimited="true" gear="{GEAR}"/>
    <motor joint="ball_y" ctrlrange="-1 1" ctrllimited="true" gear="{GEAR}"/>
  </actuator>
</mujoco>
"""
