use super::means;

const ID: &str = "sha256:354bf30d0aa3af413d2aa5ae4f23c66d354bf30d0aa3af413d2aa5ae4f23c66d";

#[test]
fn every_spelling_of_a_model_means_it() {
    let names = ["docker.io/ai/smollm2:latest", "ai/smollm2", "huggingface.co/org/model:Q4_K_M"];
    let names = names.map(str::to_owned);
    let is_meant = |wanted: &str| means(wanted, ID, names.iter());
    for wanted in [
        "smollm2",
        "ai/smollm2",
        "AI/SmolLM2:latest",
        " smollm2: ",
        "docker.io/ai/smollm2",
        "hf.co/Org/Model:Q4_K_M",
        ID,
        &ID[7..],
        &ID[7..19],
        &format!("whatever@{ID}"),
    ] {
        assert!(is_meant(wanted), "{wanted}");
    }
    for wanted in
        ["", "ai/smollm", "smollm2:other", "org/smollm2", "huggingface.co/org/model:q4", &ID[7..18]]
    {
        assert!(!is_meant(wanted), "{wanted}");
    }
}
