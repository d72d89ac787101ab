//! (IA)³: PEFT's `ia3/layer.py`. Ordinary modules rescale their output, bias included; feed-forward ones their input.

use crate::adapter::AdapterError;
use crate::adapter::draft::Draft;
use crate::adapter::peft::modules::{Module, Place};
use crate::adapter::tensors::TensorFile;

/// Takes the vectors of the targeted modules; the flag says which are feed-forward.
pub(in crate::adapter) fn read(
    targets: &[(&Module, bool)],
    file: &mut TensorFile<'_>,
    draft: &mut Draft<'_>,
) -> Result<(), AdapterError> {
    let key = |module: &Module| format!("base_model.model.{}.ia3_l", module.name);
    let mut linear = Vec::new();
    for (module, feedforward) in targets {
        match module.place {
            Place::Linear(site) => linear.push((site, key(module), *feedforward)),
            _ => return Err(AdapterError::unsupported(format!("IA3 on {} cannot be applied", module.name))),
        }
    }
    file.require(&linear.iter().map(|(_, key, _)| key.clone()).collect::<Vec<_>>())?;
    for (site, key, feedforward) in linear {
        let entry = &draft.map.linears[site.0];
        let (inputs, outputs) = (entry.inputs(), entry.outputs());
        let view = file.need(&key)?;
        if feedforward {
            let l = view.tensor(&[1, inputs], &format!("feed-forward, {inputs} inputs"))?;
            draft.patch_mut(site).rescale_input = Some(l.reshape(inputs)?); // [in]
        } else {
            let l = view.tensor(&[outputs, 1], &format!("not feed-forward, {outputs} outputs"))?;
            draft.patch_mut(site).rescale_output = Some(l.reshape(outputs)?); // [out]
        }
    }
    Ok(())
}
