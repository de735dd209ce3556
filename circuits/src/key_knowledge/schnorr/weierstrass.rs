//! Multiplications of many points on curves whose own crates have none in variable time: arkworks' Pippenger.

use ark_ec::{
    VariableBaseMSM,
    short_weierstrass::{Affine, Projective, SWCurveConfig},
};
use ark_ff::{PrimeField, Zero};

/// Whether `Σ scalars_i·points_i` is the identity: scalars big-endian, points as big-endian coordinates of points on the
/// curve. In variable time, on the rayon pool that it is called in.
pub(super) fn vanishes<C: SWCurveConfig>(
    scalars: impl Iterator<Item = [u8; 32]>,
    points: impl Iterator<Item = [[u8; 32]; 2]>,
) -> bool
where
    C::BaseField: PrimeField,
{
    let scalars: Vec<_> = scalars.map(|bytes| C::ScalarField::from_be_bytes_mod_order(&bytes).into_bigint()).collect();
    let coordinate = |bytes: [u8; 32]| C::BaseField::from_be_bytes_mod_order(&bytes);
    let points: Vec<Affine<C>> =
        points.map(|coordinates| coordinates.map(coordinate)).map(|[x, y]| Affine::new_unchecked(x, y)).collect();
    Projective::<C>::msm_bigint(&points, &scalars).is_zero()
}
