//! The types of tensors and Triton's numbers for them.

use super::api::TRITONSERVER_DataType;
use crate::tensor::DataType;

/// `None` for TYPE_INVALID, and for types that are younger than we.
pub(super) fn from_triton(number: TRITONSERVER_DataType) -> Option<DataType> {
    let index = number.checked_sub(1)?;
    DataType::ALL.get(index as usize).copied()
}

pub(super) fn to_triton(datatype: DataType) -> TRITONSERVER_DataType {
    datatype as TRITONSERVER_DataType + 1
}

#[cfg(test)]
mod tests {
    use super::super::api::{TRITONSERVER_TYPE_BYTES, TRITONSERVER_TYPE_INVALID};
    use super::*;

    #[test]
    fn numbers_are_tritons() {
        assert_eq!(to_triton(DataType::Bytes), TRITONSERVER_TYPE_BYTES);
        assert_eq!(from_triton(TRITONSERVER_TYPE_INVALID), None);
        assert_eq!(from_triton(15), None);
        for datatype in DataType::ALL {
            assert_eq!(from_triton(to_triton(datatype)), Some(datatype));
        }
    }
}
